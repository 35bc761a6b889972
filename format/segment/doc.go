// Package segment keeps recordings on disk. A segment is one pcapng file, cut
// into chunks of which each is one compression frame (docs/FORMAT.md); a recording
// is one or more segments.
//
// # What a crash leaves
//
//	when                              what is in the file             what a reader gets
//	while the first frame is written  part of it                      nothing; the file is refused as no capture
//	between two chunks                whole chunks                    all of them; the index is rebuilt by scanning
//	while a chunk is written          whole chunks and part of one    the whole chunks, and the length of the rest
//	while the index is written        all chunks                      all of them
//	after the footer                  everything                      everything, found from the end of the file
//
// A writer never changes what it wrote: chunks are appended whole, each in one
// write, and the footer, which says that the file is sealed, comes last. So a file
// without a footer is one that is still being written or was cut off; nothing has
// to be repaired before it can be read.
//
// A file that fails to take a chunk (no space, an I/O error) is finished: the
// error is kept and returned by every later call, what was written before stays
// readable, and an fsync that failed is never tried again.
package segment

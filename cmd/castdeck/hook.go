package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"castdeck/format/segment"
)

// maxHooks bounds the segments that wait for --on-segment.
const maxHooks = 1000

// hook runs a command for every sealed segment, one after the other, beside the
// recording: nothing waits for it until the end.
type hook struct {
	args    []string
	timeout time.Duration
	talk    io.Writer                    // gets what the command prints
	failed  func(path string, err error) // called by any goroutine

	queue    chan segment.Event
	done     chan struct{}
	failures atomic.Uint64
}

// splitCommand reads --on-segment: words are separated by blanks; '...' and "..." keep
// blanks together. Nothing else has a meaning: there is no shell.
func splitCommand(s string) (words []string, err error) {
	var word strings.Builder
	var quote rune
	begun := false
	for _, r := range s {
		switch {
		case quote != 0 && r == quote:
			quote = 0
		case quote != 0:
			word.WriteRune(r)
		case r == '\'' || r == '"':
			quote, begun = r, true
		case r == ' ' || r == '\t' || r == '\n':
			if begun {
				words = append(words, word.String())
				word.Reset()
				begun = false
			}
		default:
			word.WriteRune(r)
			begun = true
		}
	}
	if quote != 0 {
		return nil, fmt.Errorf("a %c that is not closed", quote)
	}
	if begun {
		words = append(words, word.String())
	}
	if len(words) == 0 {
		return nil, errors.New("names no command")
	}
	return words, nil
}

// startHook looks for the command at once: one that is not there would only be noticed
// hours later.
func startHook(command string, timeout time.Duration, talk io.Writer, failed func(string, error)) (*hook, error) {
	args, err := splitCommand(command)
	if err == nil {
		args[0], err = exec.LookPath(args[0])
	}
	if err != nil {
		return nil, usagef("--on-segment %s: %v", command, err)
	}
	h := &hook{args: args, timeout: timeout, talk: talk, failed: failed,
		queue: make(chan segment.Event, maxHooks), done: make(chan struct{})}
	go func() {
		defer close(h.done)
		for e := range h.queue {
			if err := h.run(e); err != nil {
				h.fail(e.Path, err)
			}
		}
	}()
	return h, nil
}

func (h *hook) fail(path string, err error) {
	h.failures.Add(1)
	h.failed(path, err)
}

// add puts a segment into the queue; it never waits.
func (h *hook) add(e segment.Event) {
	select {
	case h.queue <- e:
	default:
		h.fail(e.Path, fmt.Errorf("not run: %d segments wait for the command already", maxHooks))
	}
}

func (h *hook) run(e segment.Event) error {
	ctx, cancel := context.WithTimeout(context.Background(), h.timeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, h.args[0], append(h.args[1:len(h.args):len(h.args)], e.Path)...)
	cmd.Env = append(os.Environ(),
		"CASTDECK_SEGMENT="+e.Path,
		"CASTDECK_NUMBER="+strconv.FormatUint(uint64(e.Number), 10),
		"CASTDECK_DATAGRAMS="+strconv.FormatUint(e.Datagrams, 10),
		"CASTDECK_BYTES="+strconv.FormatUint(e.Bytes, 10),
		"CASTDECK_FILE_BYTES="+strconv.FormatInt(e.FileBytes, 10),
		"CASTDECK_START_NS="+strconv.FormatInt(e.First, 10),
		"CASTDECK_END_NS="+strconv.FormatInt(e.Last, 10))
	cmd.Stdout, cmd.Stderr = h.talk, h.talk
	ownGroup(cmd)
	// A child that outlives the command must not hold us up by our pipe.
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	if ctx.Err() != nil {
		return fmt.Errorf("stopped after %s (see --on-segment-timeout)", h.timeout)
	}
	return err
}

// close waits for what is queued, at most as long as one run may take.
func (h *hook) close() {
	close(h.queue)
	select {
	case <-h.done:
	case <-time.After(h.timeout + 2*time.Second):
		for e := range h.queue {
			h.fail(e.Path, errors.New("not run: the recording has ended and the commands before took too long"))
		}
		<-h.done
	}
}

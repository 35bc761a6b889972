// Makes the page of what there is.

if (doc.recording) recordingPage(doc.recording);
if (doc.comparison) comparisonPage(doc.comparison);
if (doc.replay) replayPage(doc.replay);
document.body.dataset.ready = "yes";

module castdeck

go 1.26

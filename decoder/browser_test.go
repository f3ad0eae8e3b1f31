// SPDX-License-Identifier: Apache-2.0

// A browser without a window, spoken to by the Chrome DevTools protocol: only so
// can a page be as narrow as a telephone.

package decoder_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// browser is one page of a running browser.
type browser struct {
	t       *testing.T
	dir     string
	in      *os.File
	out     *bufio.Reader
	session string
	calls   int
}

// newBrowser starts one. It is nil, and that is said, where there is none.
func newBrowser(t *testing.T) *browser {
	t.Helper()
	if testing.Short() {
		t.Skip("SKIPPED: a browser takes seconds")
	}
	path := ""
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if path, _ = exec.LookPath(name); path != "" {
			break
		}
	}
	if path == "" {
		if os.Getenv("WAYMARK_CI") != "" {
			t.Fatal("chromium is not installed, and CI must not skip it")
		}
		t.Skip("SKIPPED: no browser here, so the page is drawn by none (apt install chromium)")
	}
	// Not the test's own directory: a browser's last processes may still write to
	// it when the first is gone, and that it cannot be removed is no failure.
	dir, err := os.MkdirTemp("", "waymark-page-")
	must(t, err)
	theirIn, ourOut, err := os.Pipe()
	must(t, err)
	ourIn, theirOut, err := os.Pipe()
	must(t, err)
	args := []string{
		"--headless", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-dev-shm-usage",
		"--hide-scrollbars", "--user-data-dir=" + filepath.Join(dir, "profile"), "--remote-debugging-pipe",
	}
	if os.Geteuid() == 0 {
		args = append(args, "--no-sandbox") // it has none for root
	}
	cmd := exec.Command(path, args...)
	cmd.ExtraFiles = []*os.File{theirIn, theirOut} // it reads 3 and writes 4
	must(t, cmd.Start())
	theirIn.Close()
	theirOut.Close()
	must(t, ourIn.SetReadDeadline(time.Now().Add(2*time.Minute)))
	b := &browser{t: t, dir: dir, in: ourOut, out: bufio.NewReader(ourIn)}
	t.Cleanup(func() {
		ourOut.Close() // which ends it
		ourIn.Close()
		late := time.AfterFunc(5*time.Second, func() { _ = cmd.Process.Kill() })
		_ = cmd.Wait()
		late.Stop()
		os.RemoveAll(dir)
	})
	var target struct{ TargetID string }
	b.call("Target.createTarget", map[string]any{"url": "about:blank"}, &target)
	var attached struct{ SessionID string }
	b.call("Target.attachToTarget", map[string]any{"targetId": target.TargetID, "flatten": true}, &attached)
	b.session = attached.SessionID
	b.call("Page.enable", nil, nil)
	return b
}

// message is what comes from the browser: an answer or an event.
type message struct {
	ID     int
	Method string
	Result json.RawMessage
	Error  *struct{ Message string }
}

func (b *browser) read() message {
	b.t.Helper()
	text, err := b.out.ReadBytes(0)
	if err != nil {
		b.t.Fatalf("the browser went silent: %v", err)
	}
	var m message
	must(b.t, json.Unmarshal(text[:len(text)-1], &m))
	return m
}

func (b *browser) call(method string, params map[string]any, into any) {
	b.t.Helper()
	b.calls++
	request := map[string]any{"id": b.calls, "method": method}
	if params != nil {
		request["params"] = params
	}
	if b.session != "" {
		request["sessionId"] = b.session
	}
	text, err := json.Marshal(request)
	must(b.t, err)
	if _, err := b.in.Write(append(text, 0)); err != nil {
		b.t.Fatalf("the browser is gone: %v", err)
	}
	for {
		m := b.read()
		if m.ID != b.calls {
			continue
		}
		if m.Error != nil {
			b.t.Fatalf("%s: %s", method, m.Error.Message)
		}
		if into != nil {
			must(b.t, json.Unmarshal(m.Result, into))
		}
		return
	}
}

// open draws a page in a window of so many pixels, and waits until it is drawn.
func (b *browser) open(page, fragment string, width, height int) {
	b.t.Helper()
	b.calls++ // a file for each, so that a fragment alone does not count as the same page
	file := filepath.Join(b.dir, fmt.Sprintf("page%d.html", b.calls))
	must(b.t, os.WriteFile(file, []byte(page), 0o600))
	b.call("Emulation.setDeviceMetricsOverride", map[string]any{"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}, nil)
	b.call("Page.navigate", map[string]any{"url": "file://" + file + fragment}, nil)
	// The script is at the page's end and has run when the page is complete.
	b.eval(`new Promise((done) => { const look = () => document.readyState === "complete" && location.href !== "about:blank" ? done(1) : setTimeout(look, 5); look(); })`, nil)
	if name := os.Getenv("WAYMARK_SHOTS"); name != "" { // to look at
		var shot struct{ Data []byte }
		b.call("Page.captureScreenshot", map[string]any{"format": "png"}, &shot)
		must(b.t, os.WriteFile(filepath.Join(name, fmt.Sprintf("%s-%d-%d.png", strings.ReplaceAll(b.t.Name(), "/", "-"), width, b.calls)), shot.Data, 0o644))
	}
}

// eval evaluates an expression in the page, a promise's when it is kept.
func (b *browser) eval(expression string, into any) {
	b.t.Helper()
	var r struct {
		Result           struct{ Value json.RawMessage }
		ExceptionDetails json.RawMessage
	}
	b.call("Runtime.evaluate", map[string]any{"expression": expression, "returnByValue": true, "awaitPromise": true}, &r)
	if r.ExceptionDetails != nil {
		b.t.Fatalf("%s: %s", expression, r.ExceptionDetails)
	}
	if into != nil {
		must(b.t, json.Unmarshal(bytes.TrimSpace(r.Result.Value), into))
	}
}

// dom is what the browser has made of the page, as HTML.
func (b *browser) dom() string {
	b.t.Helper()
	var html string
	b.eval("document.documentElement.outerHTML", &html)
	return html
}

// SPDX-License-Identifier: Apache-2.0

package decoder

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"testing"
)

// recordTo names the file that the test binary, run again, records to until
// it is killed.
const recordTo = "WAYMARK_TEST_RECORD_TO"

func TestKilledRecorder(t *testing.T) {
	if path := os.Getenv(recordTo); path != "" {
		recordForever(t, path)
	}
	path := filepath.Join(t.TempDir(), "killed.pcapng")
	cmd := exec.Command(os.Args[0], "-test.run=^TestKilledRecorder$")
	cmd.Env = append(os.Environ(), recordTo+"="+path)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	said, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Errorf("the recorder said %q: %v", said, err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // it was killed
	file, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var got tape
	result, err := Replay(bytes.NewReader(file), &got)
	if err != nil || result.Ended || result.Records < 5000 {
		t.Errorf("%+v, %v", result, err)
	}
	round := journeyItems()
	round = round[:len(round)-1]
	for i, item := range got.items {
		if !reflect.DeepEqual(item, round[i%len(round)]) {
			t.Fatalf("item %d differs", i)
		}
	}
}

// recordForever records the same items again and again.
func recordForever(t *testing.T, path string) {
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	r := NewRecorder(f, RecorderOptions{})
	items := journeyItems()
	for n := 0; ; n++ {
		feed(t, r, items[:len(items)-1])
		if n%1000 == 999 {
			fmt.Println("recording") // if the test is gone, this ends the process
		}
	}
}

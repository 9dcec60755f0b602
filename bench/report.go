package main

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"time"
)

type report struct {
	Rate     int
	Quick    bool
	Compose  string
	Began    time.Time
	Took     time.Duration
	Versions map[string]string
	Skipped  []string
	Errors   []string
	Outcomes []*outcome
}

func (r *report) write(dir string) error {
	b, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "report.json"), b, 0o644)
}
func (r *report) verdict() error { return errors.New("todo") }

// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"

	"github.com/rs/zerolog"

	"waymark/nfqlb"
)

// lbLogger is the balancer's log. Each event asks for the shared log level:
// `lb loglevel` changes it at any time, and little is logged.
func lbLogger(b *nfqlb.Balancer) zerolog.Logger {
	return zerolog.New(lbLogWriter{b}).Hook(lbLevelHook{}).With().Timestamp().Logger()
}

type lbLevelHook struct{}

func (lbLevelHook) Run(e *zerolog.Event, level zerolog.Level, _ string) {
	// Without settings everything is logged, and something may be wrong.
	if c, err := nfqlb.ReadTraceConfig(nfqlb.ShmDir); err == nil && lbSyslogLevel(level) > c.LogLevel {
		e.Discard()
	}
}

// lbSyslogLevel is nfqlb's number for a level.
func lbSyslogLevel(level zerolog.Level) int {
	switch {
	case level >= zerolog.ErrorLevel:
		return nfqlb.LogError
	case level == zerolog.WarnLevel:
		return nfqlb.LogWarning
	case level == zerolog.InfoLevel:
		return nfqlb.LogNotice
	}
	return nfqlb.LogDebug
}

// lbLogWriter writes the balancer's log to stderr and to trace clients, as far
// as the shared log level lets it. What is logged at info is about starting,
// stopping and targets: notices in nfqlb's terms.
type lbLogWriter struct{ b *nfqlb.Balancer }

func (w lbLogWriter) Write(p []byte) (int, error) {
	w.b.TraceLine(p)
	return os.Stderr.Write(p)
}

package main

import (
	"encoding/xml"
	"os"
)

// JUnit's format, as far as CI servers agree on it.
type (
	junitSuite struct {
		XMLName  xml.Name    `xml:"testsuite"`
		Name     string      `xml:"name,attr"`
		Tests    int         `xml:"tests,attr"`
		Failures int         `xml:"failures,attr"`
		Cases    []junitCase `xml:"testcase"`
	}
	junitCase struct {
		Class   string        `xml:"classname,attr"`
		Name    string        `xml:"name,attr"`
		Failure *junitFailure `xml:"failure,omitempty"`
	}
	junitFailure struct {
		Message string `xml:"message,attr"`
		Text    string `xml:",chardata"`
	}
)

func writeJUnit(file string, results []caseResult) error {
	s := junitSuite{Name: "canaryd test", Tests: len(results)}
	for _, r := range results {
		c := junitCase{Class: r.File, Name: r.Name}
		if len(r.Failures) > 0 {
			s.Failures++
			c.Failure = &junitFailure{Message: r.Failures[0].Message, Text: r.Failures.Error()}
		}
		s.Cases = append(s.Cases, c)
	}
	raw, err := xml.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append([]byte(xml.Header), append(raw, '\n')...), 0o644)
}

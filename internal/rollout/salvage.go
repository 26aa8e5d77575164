package rollout

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/canaryd/canaryd/internal/analysis"
)

// storedState is a state whose evidence is not read yet.
type storedState struct {
	Format int `json:"format"`
	State
	flags
	Serving    *Serving        `json:"serving"`
	Versions   []storedVersion `json:"versions"`
	Dispersion json.RawMessage `json:"dispersion"`
	Usual      json.RawMessage `json:"usual"`
	Rate       json.RawMessage `json:"rate"`
	Book       json.RawMessage `json:"book"`
	Pace       json.RawMessage `json:"pace"`
	Hang       json.RawMessage `json:"hang"`
	Placebos   json.RawMessage `json:"placebos"`
}

type storedVersion struct {
	Version
	Judge     json.RawMessage `json:"judge"`
	Counts    json.RawMessage `json:"counts"`
	Lately    json.RawMessage `json:"lately"`
	Instances json.RawMessage `json:"instances"`
	Envoys    json.RawMessage `json:"envoys"`
	Failures  json.RawMessage `json:"failures"`
	Starts    json.RawMessage `json:"starts"`
}

// salvage reads the evidence of a stored state as far as it can be read, and says what is lost.
func (d *storedState) salvage() (State, []string) {
	s := d.State
	r := &salvager{}
	if !r.read("how stable's errors come together", d.Dispersion, &s.Dispersion, s.Dispersion.Sound) {
		s.Dispersion = analysis.Dispersion{}
	}
	if !r.read("stable's usual error rate", d.Usual, &s.Usual, s.Usual.Sound) {
		s.Usual = analysis.Usual{}
	}
	if !r.read("what stable serves by class", d.Book, &s.Book, s.Book.sound) {
		s.Book = Book{}
	}
	if !r.read("how long stable's answers take", d.Pace, &s.Pace, s.Pace.Sound) {
		s.Pace = analysis.Pace{}
	}
	if !r.read("the requests that are open", d.Hang, &s.Hang, s.Hang.sound) {
		s.Hang = Hang{}
	}
	if !r.read("the rate of requests", d.Rate, &s.Rate, s.Rate.sound) {
		s.Rate = Rate{}
	}
	if !r.read("the count of placebos", d.Placebos, &s.Placebos, func() error { return nil }) {
		s.Placebos = Placebos{}
	}
	s.Versions = nil
	for _, stored := range d.Versions {
		v := stored.Version
		r.counts(&v, stored)
		r.judge(&v, stored, JudgeConfig(&s.Policy))
		s.Versions = append(s.Versions, &v)
	}
	return s, r.lost
}

// salvager notes what cannot be read.
type salvager struct{ lost []string }

func (r *salvager) lose(what string, err error) {
	r.lost = append(r.lost, fmt.Sprintf("%s: %v", what, err))
}

// read reads one piece of evidence; what is not there is no loss.
func (r *salvager) read(what string, raw json.RawMessage, into any, sound func() error) bool {
	if raw == nil {
		return true
	}
	err := exactly(raw, into)
	if err == nil {
		err = sound()
	}
	if err != nil {
		r.lose(what, err)
	}
	return err == nil
}

// counts reads what was counted for people.
func (r *salvager) counts(v *Version, d storedVersion) {
	if !r.read("the counts of "+v.Name, d.Counts, &v.Counts, func() error { return v.Counts.Sound() }) {
		v.Counts = analysis.Counts{}
	}
	if !(v.Hung >= 0 && v.Hung <= 1e15) {
		v.Hung = 0
	}
	if v.Beside.Sound() != nil {
		v.Beside = analysis.Counts{}
	}
	if !r.read("the latest requests of "+v.Name, d.Lately, &v.Lately, func() error { return analysis.Counts{Requests: v.Lately}.Sound() }) {
		v.Lately = 0
	}
	if !r.read("the starts of "+v.Name, d.Starts, &v.Starts, v.Starts.Sound) {
		v.Starts = analysis.Starts{}
	}
	r.slices("the instances of "+v.Name, d.Instances, &v.Instances)
	r.slices("the Envoys of "+v.Name, d.Envoys, &v.Envoys)
	if !r.read("the failures of "+v.Name, d.Failures, &v.Failures, v.Failures.Sound) {
		v.Failures = analysis.Failures{}
	}
}

func (r *salvager) slices(what string, raw json.RawMessage, into *[]analysis.Slice) {
	if !r.read(what, raw, into, func() error {
		var err error
		for _, s := range *into {
			err = errors.Join(err, s.Sound())
		}
		return err
	}) {
		*into = nil
	}
}

// judge reads a version's judge. One that is lost begins anew, and spends anew: on half of the version's
// chance of a false rollback. (STATISTICS.md 2.9)
func (r *salvager) judge(v *Version, d storedVersion, settings analysis.Config) {
	var j analysis.Judge
	read := r.read("the judge of "+v.Name, d.Judge, &j, j.Sound)
	if err := v.Config.Sound(); err != nil {
		r.lose("the settings of the judge of "+v.Name, err)
		read, v.Config = false, settings
	}
	if read && d.Judge != nil {
		v.Judge = &j
	} else if d.Judge != nil || v.Phase.Waiting() {
		j = analysis.NewJudge()
		v.Judge, v.Config.Alpha = &j, v.Config.Alpha/2
	}
	if err := v.soundClasses(); err != nil {
		r.lose("what was answered of each class by "+v.Name, err)
		j = analysis.NewJudge()
		v.Judge, v.Classes, v.Config.Alpha = &j, nil, v.Config.Alpha/2
	}
}

// exactly decodes evidence and refuses a list that is shorter or longer than this build's: it would be
// filled up or cut without a word, and mean something else.
func exactly(raw json.RawMessage, into any) error {
	if err := json.Unmarshal(raw, into); err != nil {
		return err
	}
	again, err := json.Marshal(into)
	if err != nil || bytes.Equal(again, raw) {
		return err
	}
	var was, is any
	if err := errors.Join(json.Unmarshal(raw, &was), json.Unmarshal(again, &is)); err != nil {
		return err
	}
	return sameLists("it", was, is)
}

func sameLists(path string, was, is any) error {
	switch was := was.(type) {
	case map[string]any:
		fields, _ := is.(map[string]any)
		for k, v := range was {
			if i, ok := fields[k]; ok && k != "recent" { // which reads both of its shapes itself
				if err := sameLists(path+"."+k, v, i); err != nil {
					return err
				}
			}
		}
	case []any:
		list, _ := is.([]any)
		if len(list) != len(was) {
			return fmt.Errorf("%s has %d entries, not %d", path, len(was), len(list))
		}
		for i := range was {
			if err := sameLists(path, was[i], list[i]); err != nil {
				return err
			}
		}
	}
	return nil
}

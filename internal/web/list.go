package web

import (
	"bytes"
	"encoding/json"
	"net/http"
)

// sentAt is how much of a list is gathered before it is sent.
const sentAt = 32 << 10

// list is an answer that is sent while it is made: a client that asks for a hundred thousand entries and does not read them has
// no more than sentAt of them kept for it.
type list struct {
	w     http.ResponseWriter
	key   string // of the entries in the answer
	n     int    // entries so far
	begun bool   // some are sent, and the status with them
	buf   bytes.Buffer
}

// add sends an entry, sooner or later. An error says that the client does not read, or that the entry cannot be encoded.
func (l *list) add(entry any) error {
	text, err := json.Marshal(entry)
	if err != nil {
		return err
	}
	if l.n++; l.n == 1 {
		l.open()
	} else {
		l.buf.WriteByte(',')
	}
	l.buf.Write(text)
	if l.buf.Len() < sentAt {
		return nil
	}
	return l.send()
}

// open is what comes before the first entry.
func (l *list) open() { l.buf.WriteString(`{"` + l.key + `":[`) }

// end sends what is left, and where the client goes on; empty: nothing follows.
func (l *list) end(next string) error {
	if l.n == 0 {
		l.open()
	}
	l.buf.WriteByte(']')
	if next != "" {
		text, err := json.Marshal(next)
		if err != nil {
			return err
		}
		l.buf.WriteString(`,"next":`)
		l.buf.Write(text)
	}
	l.buf.WriteString("}\n")
	return l.send()
}

func (l *list) send() error {
	if !l.begun {
		l.begun = true
		l.w.Header().Set("Content-Type", "application/json")
	}
	_, err := l.w.Write(l.buf.Bytes())
	l.buf.Reset()
	return err
}

// ends sends what is left of a list. One that cannot be made to its end ends with a problem, or where a part of it is sent already with
// the connection: nobody is to take the part for the whole.
func (a *api) ends(l *list, next string, err error) {
	if err == nil {
		err = l.end(next)
	}
	switch {
	case err == nil:
	case !l.begun:
		a.fail(l.w, err)
	default:
		a.Log.WithError(err).Debug("a list was not sent to its end")
		panic(http.ErrAbortHandler)
	}
}

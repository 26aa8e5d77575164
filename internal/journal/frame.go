package journal

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

const (
	partMost  = 64 << 20
	partsMost = 100_000
)

// AppendFrame writes a chunk as it goes over the wire: how many parts, and each with its length before it. A stream of chunks
// ends with a frame of no parts.
func AppendFrame(b []byte, parts [][]byte) []byte {
	b = binary.AppendUvarint(b, uint64(len(parts)))
	for _, p := range parts {
		b = append(binary.AppendUvarint(b, uint64(len(p))), p...)
	}
	return b
}

// ReadFrame reads the next chunk; none: the stream has ended.
func ReadFrame(r *bufio.Reader) ([][]byte, error) {
	n, err := binary.ReadUvarint(r)
	if err != nil || n > partsMost {
		return nil, fmt.Errorf("the journal ends in the middle: %w", errors.Join(err, errIf(n > partsMost, "it is none")))
	}
	var parts [][]byte
	for range n {
		size, err := binary.ReadUvarint(r)
		if err != nil || size > partMost {
			return nil, fmt.Errorf("the journal ends in the middle: %w", errors.Join(err, errIf(size > partMost, "it is none")))
		}
		p := make([]byte, size)
		if _, err := io.ReadFull(r, p); err != nil {
			return nil, fmt.Errorf("the journal ends in the middle: %w", err)
		}
		parts = append(parts, p)
	}
	return parts, nil
}

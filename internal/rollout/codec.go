package rollout

import "encoding/json"

func EncodeState(s State) ([]byte, error) { return json.Marshal(s) }
func DecodeState(raw []byte) (s State, dropped []string, err error) {
	err = json.Unmarshal(raw, &s)
	return s, nil, err
}

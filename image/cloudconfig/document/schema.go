package document

import "encoding/json"

// Schema is the language as a JSON schema (draft 2020-12), for editors. Keys are spelled with "_".
func Schema() []byte {
	s := schemaOf(root())
	s["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	s["title"] = "cloud-config"
	out, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		panic(err) // a table of ours that JSON has no words for
	}
	return append(out, '\n')
}

func schemaOf(f field) map[string]any {
	s := map[string]any{}
	switch f.kind {
	case list:
		s["type"], s["items"] = "array", schemaOf(*f.item)
	case table, words:
		props, must := map[string]any{}, []string{}
		for _, sub := range f.fields {
			props[sub.name] = schemaOf(sub)
			if sub.must {
				must = append(must, sub.name)
			}
		}
		s["type"], s["properties"], s["additionalProperties"] = "object", props, false
		if len(must) > 0 {
			s["required"] = must
		}
	case flag:
		s["type"] = "boolean"
	case mode:
		s["type"], s["pattern"] = []string{"string", "integer"}, "^0?[0-7]{3,4}$"
	case scalar:
		s["type"] = []string{"string", "number", "boolean"}
	default:
		s["type"] = "string"
	}
	if f.doc != "" {
		s["description"] = f.doc
	}
	if f.gone != "" {
		s["deprecated"], s["description"] = true, f.gone
	}
	return s
}

package main

import (
	"encoding/hex"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fleet-init/fleet/update-engine/disk"
)

func TestOrderOfBootOptions(t *testing.T) {
	const ours = "e0f1e1f1e2f1"
	for name, c := range map[string]struct{ old, current, want string }{
		"behind the one that this start came from":        {"010002000300", "0200", "01000200" + ours + "0300"},
		"at the end when that one is not in the list":     {"01000200", "0900", "01000200" + ours},
		"a firmware without a list gets one":              {"", "0100", ours},
		"all there: they stay where somebody put them":    {"0100e1f102" + "00e0f1e2f1", "0100", "0100e1f10200e0f1e2f1"},
		"all there, and this start came from one of them": {"0100" + ours + "0200", "e1f1", "0100" + ours + "0200"},
		"one is missing: all are put in anew":             {"0100e0f10200e2f1", "0200", "01000200" + ours},
	} {
		bin := func(s string) []byte {
			b, err := hex.DecodeString(s)
			if err != nil {
				t.Fatal(err)
			}
			return b
		}
		if got := hex.EncodeToString(bootOrder(bin(c.old), bin(c.current))); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}

func TestBootOptionAsTheFirmwareHasIt(t *testing.T) {
	id, err := disk.ParseGUID("01020304-0506-0708-090a-0b0c0d0e0f10")
	if err != nil {
		t.Fatal(err)
	}
	want := "01000000" + "4200" + // active; the path's length
		"4600" + "0000" + // F
		"04012a00" + "01000000" + "0008000000000000" + "0000030000000000" + "0403020106050807090a0b0c0d0e0f10" + "0202" +
		"04041400" + "5c00410042002e00450046004900" + "0000" + // \AB.EFI
		"7fff0400"
	got := bootOption("F", 1, disk.Partition{ID: id, Off: 1 << 20, Size: 96 << 20}, `\AB.EFI`)
	if d := cmp.Diff(want, hex.EncodeToString(got)); d != "" {
		t.Error(d)
	}
}

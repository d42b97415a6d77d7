// Package unit is the vocabulary of unit files: parse, print, hash, names, templates, specifiers, [X-Fleet].
//
// It knows systemd's file grammar and fleet's section in it, and nothing about machines, stores or systemd itself.
package unit

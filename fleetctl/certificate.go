package main

import (
	"context"
	"errors"
	"time"

	"github.com/fleet-init/fleet/internal/api"
)

func certificateCommand(ctx context.Context, a *app, args []string) int {
	switch {
	case len(args) == 1 && args[0] == "list":
		return listCertificates(ctx, a)
	case len(args) == 2 && args[0] == "revoke" && args[1] != "":
		return revokeCertificate(ctx, a, args[1])
	}
	return a.usage(errors.New("certificate is followed by list, or revoke and a name or serial number"), "certificate")
}

func listCertificates(ctx context.Context, a *app) int {
	list, err := a.client.Certificates(ctx)
	if err != nil {
		return a.refused("Error listing certificates", err)
	}
	if a.opts.json {
		return printValue(a, list)
	}
	return table(a, []column[api.IssuedCertificate]{
		{"name", func(c api.IssuedCertificate) string { return c.Name }},
		{"role", func(c api.IssuedCertificate) string { return string(c.Role) }},
		{"serial", func(c api.IssuedCertificate) string { return c.Serial }},
		{"key", func(c api.IssuedCertificate) string { return c.Key }},
		{"token", func(c api.IssuedCertificate) string { return c.Token }},
		{"issued", func(c api.IssuedCertificate) string { return c.Issued.Local().Format(time.DateTime) }},
		{"until", func(c api.IssuedCertificate) string { return c.Until.Local().Format(time.DateTime) }},
		{"revoked", func(c api.IssuedCertificate) string {
			if c.Revoked.IsZero() {
				return ""
			}
			return c.Revoked.Local().Format(time.DateTime)
		}},
		{"by", func(c api.IssuedCertificate) string { return c.By }},
	}, "name,role,serial,token,until,revoked", list)
}

func revokeCertificate(ctx context.Context, a *app, word string) int {
	list, err := a.client.RevokeCertificate(ctx, word, a.opts.trust.force)
	if err != nil {
		return a.refused("Error", err)
	}
	if a.opts.json {
		return printValue(a, list)
	}
	voter, host := false, false
	for _, r := range list {
		what := "All certificates of " + string(r.Role) + " " + r.Name + " so far are"
		if r.Key != "" {
			what = "Certificate " + r.Serial + " of " + string(r.Role) + " " + r.Name + " is"
		}
		a.printf("%s worth nothing any more\n", what)
		voter, host = voter || r.Role == api.Voter, host || r.Role == api.AsHost
	}
	if host || voter {
		a.warn("The host is shut out and its units move. Take it down; it comes back with a token of its own: fleetctl join-token create --name MACHINE-ID")
	}
	if voter {
		a.warn("It holds the store, and with it the CA's key, by which it could make itself another certificate: take it out (fleetctl members remove NAME), then fleetctl ca rotate")
	}
	return exitOK
}

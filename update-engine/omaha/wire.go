package omaha

import "encoding/xml"

// Request is what a client sends. Only what these clients and servers use is here.
type Request struct {
	XMLName        xml.Name     `xml:"request"`
	Protocol       string       `xml:"protocol,attr"`
	Version        string       `xml:"version,attr,omitempty"`
	UpdaterVersion string       `xml:"updaterversion,attr,omitempty"`
	InstallSource  string       `xml:"installsource,attr,omitempty"` // scheduler, ondemandupdate
	IsMachine      string       `xml:"ismachine,attr,omitempty"`
	OS             OS           `xml:"os"`
	Apps           []AppRequest `xml:"app"`
}

// OS is the system that runs.
type OS struct {
	Version  string `xml:"version,attr"`
	Platform string `xml:"platform,attr"`
	SP       string `xml:"sp,attr"`
	Arch     string `xml:"arch,attr,omitempty"`
}

// AppRequest is one product on the asking machine.
type AppRequest struct {
	ID            string       `xml:"appid,attr"`
	Version       string       `xml:"version,attr"`
	Track         string       `xml:"track,attr"`
	BootID        string       `xml:"bootid,attr"`
	OEM           string       `xml:"oem,attr"`
	OEMVersion    string       `xml:"oemversion,attr"`
	AlephVersion  string       `xml:"alephversion,attr"`
	MachineID     string       `xml:"machineid,attr"`
	MachineAlias  string       `xml:"machinealias,attr"`
	Lang          string       `xml:"lang,attr"`
	Board         string       `xml:"board,attr"`
	HardwareClass string       `xml:"hardware_class,attr"`
	DeltaOK       string       `xml:"delta_okay,attr"`
	Ping          *Ping        `xml:"ping"`
	UpdateCheck   *CheckAsk    `xml:"updatecheck"`
	Events        []EventWords `xml:"event"`
}

// Ping says that the machine is alive.
type Ping struct {
	Active string `xml:"active,attr,omitempty"`
	Status string `xml:"status,attr,omitempty"`
}

// CheckAsk asks for an update.
type CheckAsk struct {
	TargetVersionPrefix string `xml:"targetversionprefix,attr,omitempty"`
}

// EventWords is an event as it is sent.
type EventWords struct {
	Type            int     `xml:"eventtype,attr"`
	Result          int     `xml:"eventresult,attr"`
	ErrorCode       int     `xml:"errorcode,attr,omitempty"`
	PreviousVersion *string `xml:"previousversion,attr"`
}

// Response is what a server sends.
type Response struct {
	XMLName  xml.Name      `xml:"response"`
	Protocol string        `xml:"protocol,attr"`
	Server   string        `xml:"server,attr"`
	DayStart DayStart      `xml:"daystart"`
	Apps     []AppResponse `xml:"app"`
}

// DayStart is part of the protocol and means nothing to these clients.
type DayStart struct {
	Elapsed int `xml:"elapsed_seconds,attr"`
}

// AppResponse answers one AppRequest.
type AppResponse struct {
	ID          string       `xml:"appid,attr"`
	Status      string       `xml:"status,attr"`
	Ping        *Ping        `xml:"ping"`
	UpdateCheck *CheckAnswer `xml:"updatecheck"`
	Events      []Ack        `xml:"event"`
}

// Ack acknowledges an event.
type Ack struct {
	Status string `xml:"status,attr"`
}

// CheckAnswer is the answer to updatecheck.
type CheckAnswer struct {
	Status       string     `xml:"status,attr"` // ok, noupdate, error-…
	PollInterval int        `xml:"PollInterval,attr,omitempty"`
	URLs         *URLs      `xml:"urls"`
	Manifests    []Manifest `xml:"manifest"` // Nebraska sends several to syncers
}

// URLs lists where the packages are.
type URLs struct {
	URL []URL `xml:"url"`
}

// URL is a folder that holds the packages.
type URL struct {
	CodeBase string `xml:"codebase,attr"`
}

// Manifest is one release.
type Manifest struct {
	Version  string    `xml:"version,attr"`
	Packages []Package `xml:"packages>package"`
	Actions  []Action  `xml:"actions>action"`
}

// Package is one file.
type Package struct {
	Name     string `xml:"name,attr"`
	SHA1     string `xml:"hash,attr"`                  // base64
	SHA256   string `xml:"hash_sha256,attr,omitempty"` // base64 or hex
	Size     int64  `xml:"size,attr"`
	Required bool   `xml:"required,attr"`
}

// Action is what to do with it; only postinstall is used, and carries the hash of the first package.
type Action struct {
	Event                 string `xml:"event,attr"`
	DisplayVersion        string `xml:"DisplayVersion,attr"`
	SHA256                string `xml:"sha256,attr"` // base64
	NeedsAdmin            bool   `xml:"needsadmin,attr"`
	IsDeltaPayload        bool   `xml:"IsDeltaPayload,attr"`
	DisablePayloadBackoff bool   `xml:"DisablePayloadBackoff,attr"`
	MetadataSignatureRsa  string `xml:"MetadataSignatureRsa,attr"`
	MetadataSize          string `xml:"MetadataSize,attr"`
	Deadline              string `xml:"deadline,attr"`
}

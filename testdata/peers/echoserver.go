package main

import (
	"bufio"
	"crypto/sha1"
	"encoding/base64"
	"net"
	"net/http"
)

// rawEcho is the load generator's server for clients under test. It answers every message of the agreed size with a
// frame made beforehand, and compares the first message of each connection byte by byte.
func rawEcho(size int) (net.Listener, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	want := pattern(size)
	answer := appendFrame(nil, finBit|opBinary, false, want)
	go func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			go rawEchoConn(nc, want, answer)
		}
	}()
	return l, nil
}

func rawEchoConn(nc net.Conn, want, answer []byte) {
	defer nc.Close()
	in := frameReader{bufio.NewReaderSize(nc, min(max(4096, len(answer)+16), 256<<10))}
	r, err := http.ReadRequest(in.Reader)
	if err != nil {
		return
	}
	sum := sha1.Sum([]byte(r.Header.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	_, err = nc.Write([]byte("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: " +
		base64.StdEncoding.EncodeToString(sum[:]) + "\r\n\r\n"))
	if err != nil {
		return
	}
	_, p, err := in.message()
	if err != nil {
		return
	}
	if string(p) != string(want) {
		answer = appendFrame(nil, finBit|opText, false, []byte("wrong"))
	}
	for {
		if _, err := nc.Write(answer); err != nil {
			return
		}
		if _, _, err := in.skip(); err != nil {
			return
		}
	}
}

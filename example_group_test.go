package websocket_test

import (
	"context"
	"fmt"

	"example.com/websocket"
)

// A connection may be in many groups: here a room and a user's devices.
func ExampleGroup_Add() {
	var lobby, ann websocket.Group
	server, client := websocket.Pipe(nil, nil)
	defer client.CloseNow()
	fmt.Println(lobby.Add(server), ann.Add(server))
	server.CloseNow()
	fmt.Println(lobby.Len(), ann.Len(), lobby.Add(server)) // it has left both, and cannot come back
	// Output:
	// true true
	// 0 0 false
}

func ExampleGroup_Remove() {
	var lobby, cellar websocket.Group
	server, client := websocket.Pipe(nil, nil)
	defer client.CloseNow()
	lobby.Add(server)
	cellar.Add(server)
	lobby.Remove(server)
	fmt.Println(lobby.Len(), cellar.Len())
	// Output: 0 1
}

func ExampleGroup_Len() {
	var all websocket.Group
	for range 3 {
		_, client := websocket.Pipe(&websocket.Options{Group: &all}, nil)
		defer client.CloseNow()
	}
	fmt.Println(all.Len())
	// Output: 3
}

// A message for each member that is not the same for all.
func ExampleGroup_All() {
	var all websocket.Group
	_, client := websocket.Pipe(&websocket.Options{Group: &all, Subprotocols: []string{"v2"}}, &websocket.Options{Subprotocols: []string{"v2"}})
	for c := range all.All() {
		c.Send(websocket.TextMessage, []byte("you speak "+c.Subprotocol()))
	}
	_, p, err := client.Read(context.Background())
	fmt.Println(string(p), err)
	// Output: you speak v2 <nil>
}

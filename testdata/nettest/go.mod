module example.com/websocket/testdata/nettest

go 1.25.0

require example.com/websocket v0.0.0

require golang.org/x/net v0.58.0

replace example.com/websocket => ../..

module example.com/websocket/testdata/interop

go 1.25

require example.com/websocket v0.0.0

replace example.com/websocket => ../..

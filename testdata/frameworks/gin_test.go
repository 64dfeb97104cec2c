package frameworks

import (
	"io"
	"net/http"

	"github.com/gin-gonic/gin"

	"example.com/websocket"
)

// A ginRecorder wraps gin's writer, as gin's middleware for compression does.
type ginRecorder struct {
	gin.ResponseWriter
	bytes int
}

func (r *ginRecorder) Write(p []byte) (int, error) {
	r.bytes += len(p)
	return r.ResponseWriter.Write(p)
}

func ginRouter(opts *websocket.Options) http.Handler {
	gin.SetMode(gin.ReleaseMode)
	r := gin.New()
	r.Use(gin.LoggerWithWriter(io.Discard), gin.RecoveryWithWriter(io.Discard), func(c *gin.Context) {
		c.Writer = &ginRecorder{ResponseWriter: c.Writer}
		c.Next()
	})

	r.GET("/handler/:room", func(c *gin.Context) {
		room := c.Param("room") // gin uses c again when this function has returned
		websocket.Handler(opts, func(c *websocket.Conn, r *http.Request) {
			echoRoom(c, func() string { return room })
		}).ServeHTTP(c.Writer, c.Request)
	})
	r.GET("/upgrade/:room", func(c *gin.Context) {
		conn, err := websocket.Upgrade(c.Writer, c.Request, opts)
		if err != nil {
			return // Upgrade has answered the request
		}
		defer conn.CloseNow()
		echoRoom(conn, func() string { return c.Param("room") })
	})
	return record(r)
}

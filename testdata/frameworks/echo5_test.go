package frameworks

import (
	"log/slog"
	"net/http"

	"github.com/labstack/echo/v5"
	"github.com/labstack/echo/v5/middleware"

	"example.com/websocket"
)

func echo5Router(opts *websocket.Options) http.Handler {
	e := echo.New()
	e.Logger = slog.New(slog.DiscardHandler)
	e.Use(echo.WrapMiddleware(record), middleware.RequestLogger(),
		middleware.Recover(), middleware.Gzip(), middleware.BodyLimit(1<<20))

	e.GET("/handler/:room", func(c *echo.Context) error {
		room := c.Param("room") // echo uses c again when this function has returned
		websocket.Handler(opts, func(c *websocket.Conn, r *http.Request) {
			echoRoom(c, func() string { return room })
		}).ServeHTTP(c.Response(), c.Request())
		return nil
	})
	e.GET("/upgrade/:room", func(c *echo.Context) error {
		conn, err := websocket.Upgrade(c.Response(), c.Request(), opts)
		if err != nil {
			return nil // Upgrade has answered the request; echo would answer an error again
		}
		defer conn.CloseNow()
		echoRoom(conn, func() string { return c.Param("room") })
		return nil
	})
	return e
}

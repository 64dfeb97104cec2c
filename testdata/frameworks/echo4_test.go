package frameworks

import (
	"net/http"

	"github.com/labstack/echo/v4"
	"github.com/labstack/echo/v4/middleware"

	"example.com/websocket"
)

func echo4Router(opts *websocket.Options) http.Handler {
	e := echo.New()
	requestLogger := middleware.RequestLoggerWithConfig(middleware.RequestLoggerConfig{
		LogStatus:     true,
		LogValuesFunc: func(echo.Context, middleware.RequestLoggerValues) error { return nil },
	})
	e.Use(echo.WrapMiddleware(record), requestLogger,
		middleware.Recover(), middleware.Gzip(), middleware.BodyLimit("1M"))

	e.GET("/handler/:room", func(c echo.Context) error {
		room := c.Param("room") // echo uses c again when this function has returned
		websocket.Handler(opts, func(c *websocket.Conn, r *http.Request) {
			echoRoom(c, func() string { return room })
		}).ServeHTTP(c.Response(), c.Request())
		return nil
	})
	e.GET("/upgrade/:room", func(c echo.Context) error {
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

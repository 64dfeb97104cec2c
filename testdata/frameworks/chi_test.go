package frameworks

import (
	"io"
	"log"
	"net/http"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/go-chi/chi/v5/middleware"

	"example.com/websocket"
)

func chiRouter(opts *websocket.Options) http.Handler {
	r := chi.NewRouter()
	logger := middleware.DefaultLogFormatter{Logger: log.New(io.Discard, "", 0), NoColor: true}
	r.Use(record, middleware.RequestLogger(&logger), middleware.Recoverer, middleware.Compress(5), middleware.Timeout(time.Minute))

	// chi.URLParam works only until ServeHTTP returns; PathValue keeps working.
	r.Handle("/handler/{room}", websocket.Handler(opts, func(c *websocket.Conn, r *http.Request) {
		echoRoom(c, func() string { return r.PathValue("room") })
	}))
	r.Get("/upgrade/{room}", func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Upgrade(w, r, opts)
		if err != nil {
			return // Upgrade has answered the request
		}
		defer c.CloseNow()
		echoRoom(c, func() string { return chi.URLParam(r, "room") })
	})
	return r
}

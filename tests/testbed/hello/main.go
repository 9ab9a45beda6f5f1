// hello is the smallest model server: it speaks the V1 protocol and predicts the index of the largest number.
package main

import (
	"context"
	"encoding/json"
	"log"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"sync/atomic"
	"syscall"
	"time"
)

type request struct {
	Instances [][]float64 `json:"instances"`
}

type response struct {
	Predictions []int  `json:"predictions"`
	ServedBy    string `json:"served_by"`
}

func main() {
	name := os.Getenv("NAME")
	var answered atomic.Int64
	routes := http.NewServeMux()
	routes.HandleFunc("GET /v1/models/{model}", func(w http.ResponseWriter, r *http.Request) {
		write(w, map[string]any{"name": r.PathValue("model"), "ready": true})
	})
	routes.HandleFunc("GET /answered", func(w http.ResponseWriter, r *http.Request) {
		write(w, map[string]any{"predictions": answered.Load()})
	})
	routes.HandleFunc("POST /v1/models/{call}", func(w http.ResponseWriter, r *http.Request) {
		var asked request
		if err := json.NewDecoder(r.Body).Decode(&asked); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		predictions := []int{}
		for _, numbers := range asked.Instances {
			if len(numbers) == 0 {
				http.Error(w, "an instance has no numbers", http.StatusBadRequest)
				return
			}
			predictions = append(predictions, slices.Index(numbers, slices.Max(numbers)))
		}
		answered.Add(1)
		write(w, response{Predictions: predictions, ServedBy: name})
	})
	server := &http.Server{Addr: ":8080", Handler: routes}
	asked, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	ended := make(chan error)
	go func() {
		<-asked.Done()
		limit, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		ended <- server.Shutdown(limit)
	}()
	if err := server.ListenAndServe(); err != http.ErrServerClosed {
		log.Fatal(err)
	}
	if err := <-ended; err != nil {
		log.Fatal(err)
	}
}

func write(w http.ResponseWriter, content any) {
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(content); err != nil {
		log.Print(err)
	}
}

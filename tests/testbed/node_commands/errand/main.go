// Command errand is what the tests of the node run in pods, from an image without a shell.
//
//	errand exit CODE           end with a code
//	errand serve ADDRESS TEXT  answer every HTTP request with a text
//	errand get URL             print what a URL answers, within ten seconds
//	errand resolve NAME        print the addresses of a name
//	errand eat MEBIBYTES       take memory and keep it
//	errand rest                do nothing until told to end
//	errand confinement         print how the kernel confines this process
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const patience = 10 * time.Second

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(arguments []string) error {
	if len(arguments) == 0 {
		return errors.New("usage: errand exit|serve|get|resolve|eat|rest|confinement ...")
	}
	switch name, rest := arguments[0], arguments[1:]; {
	case name == "exit" && len(rest) == 1:
		code, err := strconv.Atoi(rest[0])
		if err != nil {
			return err
		}
		os.Exit(code)
	case name == "serve" && len(rest) == 2:
		return serve(rest[0], rest[1])
	case name == "get" && len(rest) == 1:
		return get(rest[0])
	case name == "resolve" && len(rest) == 1:
		return resolve(rest[0])
	case name == "eat" && len(rest) == 1:
		return eat(rest[0])
	case name == "rest" && len(rest) == 0:
		untilTold()
	case name == "confinement" && len(rest) == 0:
		return confinement()
	default:
		return fmt.Errorf("errand: no such errand: %s", strings.Join(arguments, " "))
	}
	return nil
}

func serve(address, text string) error {
	answer := func(writer http.ResponseWriter, _ *http.Request) { fmt.Fprint(writer, text) }
	failed := make(chan error, 1)
	go func() { failed <- http.ListenAndServe(address, http.HandlerFunc(answer)) }()
	told := make(chan struct{})
	go func() { untilTold(); close(told) }()
	select {
	case err := <-failed:
		return err
	case <-told:
		return nil
	}
}

func get(url string) error {
	client := http.Client{Timeout: patience}
	answer, err := client.Get(url)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	_, err = io.Copy(os.Stdout, answer.Body)
	if err == nil && answer.StatusCode != http.StatusOK {
		err = errors.New(answer.Status)
	}
	return err
}

func resolve(name string) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	addresses, err := net.DefaultResolver.LookupHost(ctx, name)
	if err == nil {
		fmt.Println(strings.Join(addresses, "\n"))
	}
	return err
}

func eat(mebibytes string) error {
	count, err := strconv.Atoi(mebibytes)
	if err != nil {
		return err
	}
	held := make([]byte, count<<20)
	for page := 0; page < len(held); page += os.Getpagesize() {
		held[page] = 1
	}
	fmt.Println("holding", len(held)>>20, "MiB")
	untilTold()
	held[0] = 0
	return nil
}

func confinement() error {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(status)) {
		for _, name := range []string{"Uid:", "CapEff:", "NoNewPrivs:", "Seccomp:"} {
			if strings.HasPrefix(line, name) {
				fmt.Print(line)
			}
		}
	}
	return nil
}

func untilTold() {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	<-signals
}

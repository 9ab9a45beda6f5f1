// Command remove_pods stops and removes all pods of a container runtime, as `crictl rmp --all --force` does.
//
// A node stops its pods before its container runtime: else their network namespaces stay behind.
package main

import (
	"context"
	"fmt"
	"os"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const (
	patience = 45 * time.Second
	grace    = 1 // seconds from SIGTERM to SIGKILL for a container
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: remove_pods unix:///path/to/the/runtime.sock")
		os.Exit(2)
	}
	if err := removeAll(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func removeAll(endpoint string) error {
	connection, err := grpc.NewClient(endpoint, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer connection.Close()
	runtime := cri.NewRuntimeServiceClient(connection)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()

	// A runtime that has just been started to be cleaned up may not answer yet.
	containers, err := runtime.ListContainers(ctx, &cri.ListContainersRequest{}, grpc.WaitForReady(true))
	if err != nil {
		return fmt.Errorf("list containers: %w", err)
	}
	each(containers.Containers, func(one *cri.Container) error {
		// What does not stop here is killed with its pod.
		_, err := runtime.StopContainer(ctx, &cri.StopContainerRequest{ContainerId: one.Id, Timeout: grace})
		return err
	})
	pods, err := runtime.ListPodSandbox(ctx, &cri.ListPodSandboxRequest{})
	if err != nil {
		return fmt.Errorf("list pods: %w", err)
	}
	return each(pods.Items, func(one *cri.PodSandbox) error {
		if _, err := runtime.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: one.Id}); err != nil {
			return fmt.Errorf("stop pod %s: %w", one.Metadata.GetName(), err)
		}
		if _, err := runtime.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: one.Id}); err != nil {
			return fmt.Errorf("remove pod %s: %w", one.Metadata.GetName(), err)
		}
		return nil
	})
}

// each does the same to all at once and returns the first error.
func each[T any](items []T, do func(T) error) error {
	errors := make(chan error, len(items))
	var running sync.WaitGroup
	for _, item := range items {
		running.Go(func() { errors <- do(item) })
	}
	running.Wait()
	close(errors)
	for err := range errors {
		if err != nil {
			return err
		}
	}
	return nil
}

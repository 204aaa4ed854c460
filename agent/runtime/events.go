package runtime

import (
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// broadcaster fans events out to the streams that listen.
type broadcaster struct {
	mu        sync.Mutex
	listeners map[chan *cri.ContainerEventResponse]struct{}
}

// eventBacklog is how far a listener may fall behind before its stream is ended; it then lists and listens again.
const eventBacklog = 1024

func (b *broadcaster) subscribe() chan *cri.ContainerEventResponse {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.listeners == nil {
		b.listeners = map[chan *cri.ContainerEventResponse]struct{}{}
	}
	ch := make(chan *cri.ContainerEventResponse, eventBacklog)
	b.listeners[ch] = struct{}{}
	return ch
}

func (b *broadcaster) unsubscribe(ch chan *cri.ContainerEventResponse) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.listeners, ch)
}

func (b *broadcaster) any() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.listeners) > 0
}

func (b *broadcaster) publish(event *cri.ContainerEventResponse) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for ch := range b.listeners {
		select {
		case ch <- event:
		default:
			delete(b.listeners, ch)
			close(ch)
		}
	}
}

// emit tells the listeners that something happened to a container or sandbox, with the pod's state after it.
func (s *Service) emit(sb *sandbox, id string, kind cri.ContainerEventType) {
	if !s.events.any() {
		return
	}
	event := &cri.ContainerEventResponse{
		ContainerId: id, ContainerEventType: kind, CreatedAt: time.Now().UnixNano(), PodSandboxStatus: sb.status(),
	}
	for _, c := range s.containersOf(sb.rec.ID) {
		event.ContainersStatuses = append(event.ContainersStatuses, c.status())
	}
	s.events.publish(event)
}

// GetContainerEvents streams events until the client goes.
func (s *Service) GetContainerEvents(_ *cri.GetEventsRequest, stream cri.RuntimeService_GetContainerEventsServer) error {
	ch := s.events.subscribe()
	defer s.events.unsubscribe(ch)
	// The header tells the listener that from here on it misses nothing.
	if err := stream.SendHeader(nil); err != nil {
		return err
	}
	for {
		select {
		case <-stream.Context().Done():
			return nil
		case event, open := <-ch:
			if !open {
				return status.Error(codes.ResourceExhausted, "the listener fell behind; list and listen again")
			}
			if err := stream.Send(event); err != nil {
				return err
			}
		}
	}
}

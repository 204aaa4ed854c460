package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Service is CRI's ImageService over a store.
type Service struct {
	runtimeapi.UnimplementedImageServiceServer
	store *Store
}

var _ runtimeapi.ImageServiceServer = (*Service)(nil)

// NewService returns the CRI face of a store.
func NewService(s *Store) *Service { return &Service{store: s} }

// streamBatch is how many images one message of StreamImages holds.
const streamBatch = 100

// ListImages lists images; a filter names one by any of its names.
func (v *Service) ListImages(_ context.Context, req *runtimeapi.ListImagesRequest) (*runtimeapi.ListImagesResponse, error) {
	images, err := v.list(req.GetFilter())
	if err != nil {
		return nil, err
	}
	return &runtimeapi.ListImagesResponse{Images: images}, nil
}

// StreamImages is ListImages without a limit on the answer's size.
func (v *Service) StreamImages(req *runtimeapi.StreamImagesRequest, stream grpc.ServerStreamingServer[runtimeapi.StreamImagesResponse]) error {
	images, err := v.list(req.GetFilter())
	if err != nil {
		return err
	}
	for part := range slices.Chunk(images, streamBatch) {
		if err := stream.Send(&runtimeapi.StreamImagesResponse{Images: part}); err != nil {
			return err
		}
	}
	return nil
}

func (v *Service) list(filter *runtimeapi.ImageFilter) ([]*runtimeapi.Image, error) {
	if ref := filter.GetImage().GetImage(); ref != "" {
		img, err := v.store.Get(ref)
		if errors.Is(err, ErrNotFound) {
			return nil, nil
		}
		if err != nil {
			return nil, toStatus(err)
		}
		return []*runtimeapi.Image{toCRI(img)}, nil
	}
	var out []*runtimeapi.Image
	for _, img := range v.store.List() {
		out = append(out, toCRI(img))
	}
	return out, nil
}

// ImageStatus describes one image; Image is nil when there is none.
func (v *Service) ImageStatus(_ context.Context, req *runtimeapi.ImageStatusRequest) (*runtimeapi.ImageStatusResponse, error) {
	img, err := v.store.Get(req.GetImage().GetImage())
	if errors.Is(err, ErrNotFound) {
		return &runtimeapi.ImageStatusResponse{}, nil
	}
	if err != nil {
		return nil, toStatus(err)
	}
	resp := &runtimeapi.ImageStatusResponse{Image: toCRI(img)}
	if req.GetVerbose() {
		data, err := json.Marshal(map[string]any{"imageSpec": img.Config, "diffIDs": img.DiffIDs})
		if err != nil {
			return nil, toStatus(err)
		}
		resp.Info = map[string]string{"info": string(data)}
	}
	return resp, nil
}

// PullImage fetches an image and answers its ID.
func (v *Service) PullImage(ctx context.Context, req *runtimeapi.PullImageRequest) (*runtimeapi.PullImageResponse, error) {
	a := req.GetAuth()
	creds := Auth{Username: a.GetUsername(), Password: a.GetPassword(), IdentityToken: a.GetIdentityToken(), RegistryToken: a.GetRegistryToken()}
	if a.GetAuth() != "" && creds.Username == "" {
		var err error
		if creds.Username, creds.Password, err = decodeBasic(a.GetAuth()); err != nil {
			return nil, status.Error(codes.InvalidArgument, err.Error())
		}
	}
	id, err := v.store.Pull(ctx, req.GetImage().GetImage(), creds)
	if err != nil {
		return nil, toStatus(err)
	}
	return &runtimeapi.PullImageResponse{ImageRef: id}, nil
}

// RemoveImage removes an image with all its names; none is success.
func (v *Service) RemoveImage(_ context.Context, req *runtimeapi.RemoveImageRequest) (*runtimeapi.RemoveImageResponse, error) {
	if err := v.store.Remove(req.GetImage().GetImage()); err != nil {
		return nil, toStatus(err)
	}
	return &runtimeapi.RemoveImageResponse{}, nil
}

// ImageFsInfo tells how much disk the layers and the containers' writable layers take.
func (v *Service) ImageFsInfo(context.Context, *runtimeapi.ImageFsInfoRequest) (*runtimeapi.ImageFsInfoResponse, error) {
	layers, err := v.store.LayersUsage()
	if err != nil {
		return nil, toStatus(err)
	}
	writable, err := diskUsage(v.store.path("snapshots"))
	if err != nil {
		return nil, toStatus(err)
	}
	now := time.Now().UnixNano()
	usage := func(u Usage, dir string) []*runtimeapi.FilesystemUsage {
		return []*runtimeapi.FilesystemUsage{{
			Timestamp: now, FsId: &runtimeapi.FilesystemIdentifier{Mountpoint: v.store.path(dir)},
			UsedBytes: &runtimeapi.UInt64Value{Value: u.Bytes}, InodesUsed: &runtimeapi.UInt64Value{Value: u.Inodes},
		}}
	}
	return &runtimeapi.ImageFsInfoResponse{ImageFilesystems: usage(layers, "layers"), ContainerFilesystems: usage(writable, "snapshots")}, nil
}

func toCRI(img Image) *runtimeapi.Image {
	out := &runtimeapi.Image{
		Id: img.ID, RepoTags: img.RepoTags, RepoDigests: img.RepoDigests, Size: img.Size, Pinned: img.Pinned,
		Spec: &runtimeapi.ImageSpec{Image: img.ID},
	}
	user, _, _ := strings.Cut(img.Config.Config.User, ":")
	if uid, err := strconv.ParseInt(user, 10, 64); err == nil {
		out.Uid = &runtimeapi.Int64Value{Value: uid}
	} else {
		out.Username = user
	}
	return out
}

// toStatus gives an error the gRPC code that a CRI client looks at.
func toStatus(err error) error {
	code := codes.Unknown
	switch {
	case errors.Is(err, ErrNotFound):
		code = codes.NotFound
	case errors.Is(err, ErrDenied):
		code = codes.PermissionDenied
	case errors.Is(err, context.Canceled):
		code = codes.Canceled
	case errors.Is(err, context.DeadlineExceeded):
		code = codes.DeadlineExceeded
	}
	return status.Error(code, fmt.Sprint(err))
}

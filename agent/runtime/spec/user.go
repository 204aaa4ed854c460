package spec

import (
	"bytes"
	"fmt"
	"math"
	"slices"
	"strconv"

	"github.com/moby/sys/user"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// ResolveUser finds the identity of the container's process: what the pod asks for, else what the image names. passwd
// and group are the contents of the image's files, nil when it has none.
func ResolveUser(sc *cri.LinuxContainerSecurityContext, imageUser string, passwd, group []byte) (User, error) {
	who := imageUser
	switch {
	case sc.GetRunAsUser() != nil:
		who = strconv.FormatInt(sc.GetRunAsUser().GetValue(), 10)
	case sc.GetRunAsUsername() != "":
		who = sc.GetRunAsUsername()
	}
	if sc.GetRunAsGroup() != nil {
		if sc.GetRunAsUser() == nil && sc.GetRunAsUsername() == "" {
			return User{}, fmt.Errorf("run_as_group %d needs run_as_user or run_as_username", sc.GetRunAsGroup().GetValue())
		}
		who += ":" + strconv.FormatInt(sc.GetRunAsGroup().GetValue(), 10)
	}
	found, err := user.GetExecUser(who, &user.ExecUser{}, bytes.NewReader(passwd), bytes.NewReader(group))
	if err != nil {
		return User{}, fmt.Errorf("user %q in the image: %w", who, err)
	}
	out := User{UID: uint32(found.Uid), GID: uint32(found.Gid), Groups: []uint32{uint32(found.Gid)}}
	add := func(gid int64) error {
		if gid < 0 || gid > math.MaxUint32 {
			return fmt.Errorf("group %d is out of range", gid)
		}
		if !slices.Contains(out.Groups, uint32(gid)) {
			out.Groups = append(out.Groups, uint32(gid))
		}
		return nil
	}
	if sc.GetSupplementalGroupsPolicy() == cri.SupplementalGroupsPolicy_Merge {
		for _, gid := range found.Sgids {
			if err := add(int64(gid)); err != nil {
				return User{}, err
			}
		}
		extra, err := memberships(found.Uid, passwd, group)
		if err != nil {
			return User{}, err
		}
		for _, gid := range extra {
			if err := add(int64(gid)); err != nil {
				return User{}, err
			}
		}
	}
	for _, gid := range sc.GetSupplementalGroups() {
		if err := add(gid); err != nil {
			return User{}, err
		}
	}
	return out, nil
}

// memberships lists the groups that /etc/group gives the user with this number, even when a group was named too.
func memberships(uid int, passwd, group []byte) ([]int, error) {
	users, err := user.ParsePasswdFilter(bytes.NewReader(passwd), func(u user.User) bool { return u.Uid == uid })
	if err != nil || len(users) == 0 {
		return nil, err
	}
	groups, err := user.ParseGroupFilter(bytes.NewReader(group), func(g user.Group) bool {
		return slices.Contains(g.List, users[0].Name)
	})
	if err != nil {
		return nil, fmt.Errorf("groups in the image: %w", err)
	}
	var gids []int
	for _, g := range groups {
		gids = append(gids, g.Gid)
	}
	return gids, nil
}

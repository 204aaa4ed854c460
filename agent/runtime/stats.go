package runtime

type statsCache struct{}

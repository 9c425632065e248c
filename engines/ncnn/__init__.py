"""ncnn: a network's convolutions by Winograd's minimal filtering, on CPUs."""

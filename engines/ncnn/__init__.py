"""ncnn, which computes convolutions by Winograd's minimal filtering, on CPUs."""

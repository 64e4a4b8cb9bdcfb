"""The HLS stage: an hls4ml project of the fixed-point network, and its C simulation."""

"""What puts the operators under transformers' and PEFT's modules. The library's own `peft` is
meant wherever a file here imports it: all imports are absolute."""

"""The trainer of Phitune: fine-tunes Phi-3.5-vision from one resolved config. Knows nothing of Kubernetes."""

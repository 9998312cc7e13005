"""What `darkroom doctor` looks at: facts are gathered at the edges, and judged by functions that only compute."""

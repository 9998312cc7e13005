"""The project's own tools: linters and generators of pages. No part of the wheel."""

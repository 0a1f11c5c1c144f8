"""What a pool tells Prometheus, Grafana and OpenTelemetry."""

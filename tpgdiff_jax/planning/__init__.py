"""What a configuration would need of a pod or a cluster, told without one (`--mode=plan`)."""

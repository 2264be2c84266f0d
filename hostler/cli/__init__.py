"""The admin client `hostler`: asks the coordinator over gRPC and shows what it answers. Decides nothing itself."""

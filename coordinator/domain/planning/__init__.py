"""The planner's parts. What is known is indexed once and kept in step; a plan is worked out on top and undone again."""

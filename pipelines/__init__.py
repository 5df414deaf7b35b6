"""What runs, when and where: definitions, jobs, the schedule, sensors, resources."""

"""The policy pack: rules that judge a plan by its resources, whatever the program that made it says."""

"""What gate and coordinator share of secure aggregation: sums of masked updates, opened by many or by nobody.

The protocol is that of Bonawitz et al. (CCS 2017, figure 4) with its consistency check, for an active server: keys,
shares, masked updates, a signed set of survivors, unmasking. Sums are exact, over integers modulo 2^32.
"""

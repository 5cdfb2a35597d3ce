# scheduler.cc: what was swapped out is believed to outlive the gang.
/^void ForgetGang/,/^}/s/sequence\.num_swapped = 0;/sequence.swap_table.assign(1, 0);/

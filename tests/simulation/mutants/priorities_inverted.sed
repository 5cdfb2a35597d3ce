# wait_queue.cc: batch goes before high.
/^size_t WaitQueue::ClassOf/,/^}/{s/PRIORITY_HIGH/PRIORITY_SWAP/;s/PRIORITY_BATCH/PRIORITY_HIGH/;s/PRIORITY_SWAP/PRIORITY_BATCH/}

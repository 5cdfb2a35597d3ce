# scheduler.cc: every token is told twice.
s/output\.tokens\.push_back(Accept.*/&\n    output.tokens.push_back(output.tokens.back());/

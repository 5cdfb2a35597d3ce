// health_check HOST:PORT SERVICE: prints what grpc.health.v1 says; exit code 0 if it serves.

#include "tests/health_client.h"

#include <iostream>

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  const std::string health = trireme::HealthOf(argv[1], argv[2]);
  std::cout << health << std::endl;
  return health == "SERVING" ? 0 : 1;
}

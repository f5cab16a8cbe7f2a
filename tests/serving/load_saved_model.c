/* Load an exported encoder as C++ servers do and run it on a batch of uint8 images.
 *
 * load_saved_model FOLDER INPUT_OPERATION OUTPUT_OPERATION OUTPUT_INDEX N H W < images.raw > embeddings.raw
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tensorflow/c/c_api.h"

static void check(TF_Status *status, const char *what) {
  if (TF_GetCode(status) != TF_OK) {
    fprintf(stderr, "%s: %s\n", what, TF_Message(status));
    exit(1);
  }
}

int main(int argc, char **argv) {
  if (argc != 8) return 2;
  TF_Status *status = TF_NewStatus();
  TF_Graph *graph = TF_NewGraph();
  TF_SessionOptions *options = TF_NewSessionOptions();
  const char *tags[] = {"serve"};
  TF_Session *session = TF_LoadSessionFromSavedModel(options, NULL, argv[1], tags, 1, graph, NULL, status);
  check(status, "loading");

  int64_t shape[4] = {atoll(argv[5]), atoll(argv[6]), atoll(argv[7]), 3};
  size_t size = (size_t)(shape[0] * shape[1] * shape[2] * 3);
  TF_Tensor *images = TF_AllocateTensor(TF_UINT8, shape, 4, size);
  if (fread(TF_TensorData(images), 1, size, stdin) != size) return 3;

  TF_Output input = {TF_GraphOperationByName(graph, argv[2]), 0};
  TF_Output output = {TF_GraphOperationByName(graph, argv[3]), atoi(argv[4])};
  if (!input.oper || !output.oper) return 4;
  TF_Tensor *embeddings = NULL;
  TF_SessionRun(session, NULL, &input, &images, 1, &output, &embeddings, 1, NULL, 0, NULL, status);
  check(status, "running");
  fwrite(TF_TensorData(embeddings), 1, TF_TensorByteSize(embeddings), stdout);
  TF_CloseSession(session, status);
  return 0;
}

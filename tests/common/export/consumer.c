/* Loads a SavedModel through TensorFlow's C API and evaluates one output: no Python, no Keras.
 *
 * consumer FOLDER OUTPUT OUT.raw (INPUT IN.raw D0,D1,...)...
 *
 * OUTPUT and INPUT are tensors of the graph, such as serving_default_image:0. Inputs are float32;
 * the output is written as it lies in memory.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <tensorflow/c/c_api.h>

#define MOST_INPUTS 8
#define MOST_AXES 8

static void fail(const char *what, const char *detail) {
  fprintf(stderr, "%s: %s\n", what, detail);
  exit(1);
}

static void check(const char *what, TF_Status *status) {
  if (TF_GetCode(status) != TF_OK) fail(what, TF_Message(status));
}

static TF_Output find(TF_Graph *graph, const char *tensor) {
  char name[512];
  const char *colon = strrchr(tensor, ':');
  if (!colon || (size_t)(colon - tensor) >= sizeof name) fail(tensor, "no name of a tensor");
  memcpy(name, tensor, colon - tensor);
  name[colon - tensor] = 0;
  TF_Output found = {TF_GraphOperationByName(graph, name), atoi(colon + 1)};
  if (!found.oper) fail(tensor, "not in the graph");
  return found;
}

static TF_Tensor *read_tensor(const char *path, char *sizes) {
  int64_t axes[MOST_AXES];
  int rank = 0;
  size_t bytes = sizeof(float);
  for (char *size = strtok(sizes, ","); size && rank < MOST_AXES; size = strtok(NULL, ",")) {
    axes[rank] = atoll(size);
    bytes *= axes[rank++];
  }
  TF_Tensor *tensor = TF_AllocateTensor(TF_FLOAT, axes, rank, bytes);
  FILE *file = fopen(path, "rb");
  if (!file || fread(TF_TensorData(tensor), 1, bytes, file) != bytes) fail(path, "cannot be read");
  fclose(file);
  return tensor;
}

int main(int count, char **words) {
  if (count < 7 || (count - 4) % 3) fail("usage", "consumer FOLDER OUTPUT OUT (INPUT IN SIZES)...");
  TF_Status *status = TF_NewStatus();
  TF_Graph *graph = TF_NewGraph();
  TF_SessionOptions *options = TF_NewSessionOptions();
  const char *tags[] = {"serve"};
  TF_Session *session =
      TF_LoadSessionFromSavedModel(options, NULL, words[1], tags, 1, graph, NULL, status);
  check(words[1], status);

  TF_Output places[MOST_INPUTS], output = find(graph, words[2]);
  TF_Tensor *values[MOST_INPUTS], *result = NULL;
  int inputs = 0;
  for (int word = 4; word < count && inputs < MOST_INPUTS; word += 3, inputs++) {
    places[inputs] = find(graph, words[word]);
    values[inputs] = read_tensor(words[word + 1], words[word + 2]);
  }
  TF_SessionRun(session, NULL, places, values, inputs, &output, &result, 1, NULL, 0, NULL, status);
  check("run", status);

  FILE *file = fopen(words[3], "wb");
  size_t bytes = TF_TensorByteSize(result);
  if (!file || fwrite(TF_TensorData(result), 1, bytes, file) != bytes || fclose(file))
    fail(words[3], "cannot be written");
  for (int axis = 0; axis < TF_NumDims(result); axis++)
    printf("%lld ", (long long)TF_Dim(result, axis));
  printf("\n");
  TF_CloseSession(session, status);
  TF_DeleteSession(session, status);
  return 0;
}

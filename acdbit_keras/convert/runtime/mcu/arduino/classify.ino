// Classifies one picture over and over, and prints the class and how long it took. In place of the grey picture here
// comes what a camera gives, scaled to @macro@_WIDTH x @macro@_HEIGHT pixels.
#include <@name@.h>
#include <acdbit_model.h>

static unsigned char arena[@macro@_MEMORY] __attribute__((aligned(64)));
static unsigned char image[@macro@_INPUT_BYTES] __attribute__((aligned(16)));
static float logits[@macro@_OUTPUTS];

void setup() {
  Serial.begin(115200);
  const char* error = acdbit_model_check(@name@_data, sizeof @name@_data);
  if (!error) error = acdbit_model_prepare(@name@_data, arena, sizeof arena);
  while (error) {
    Serial.println(error);
    delay(1000);
  }
  if (acdbit_model_info(@name@_data).pixels) memset(image, 128, sizeof image);
}

void loop() {
  const unsigned long start = micros();
  acdbit_model_run(@name@_data, arena, image, logits);
  const unsigned long duration = micros() - start;
  int best = 0;
  for (int i = 1; i < @macro@_OUTPUTS; i++)
    if (logits[i] > logits[best]) best = i;
  Serial.print(@name@_classes[best]);
  Serial.print(" in ");
  Serial.print(duration);
  Serial.println(" us");
  delay(1000);
}

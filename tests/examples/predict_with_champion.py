import mlflow
import pandas as pd

mlflow.set_tracking_uri("sqlite:///runs/mlflow.db")  # or the address of your MLflow server
model = mlflow.pyfunc.load_model("models:/vavl-demo@champion")
audio = "runs/demo_corpus/audio/f01/f01_s01_happy_t1.wav"
video = "runs/demo_corpus/video/f01/f01_s01_happy_t1.mp4"
clips = pd.DataFrame([{"audio_path": audio, "video_path": video}, {"audio_path": audio}, {"video_path": video}])
print(model.predict(clips)[["condition", "label"]])
